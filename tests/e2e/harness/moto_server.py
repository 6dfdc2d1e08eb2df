"""AWS as moto plays it, on the port given; its list of versions tells when each was made, as AWS does."""

import json
import sys

from moto.secretsmanager.models import SecretsManagerBackend
from moto.server import main


def versions(backend, secret_id):
    secret = backend.secrets[secret_id]
    listed = [
        {"VersionId": id, "VersionStages": version["version_stages"], "CreatedDate": version["createdate"]}
        for id, version in secret.versions.items()
    ]
    return json.dumps({"ARN": secret.arn, "Name": secret.name, "Versions": listed})


# Its own says "now" for each, at every call.
SecretsManagerBackend.list_secret_version_ids = versions

main(["-H", "127.0.0.1", "-p", sys.argv[1]])
