"""AWS Secrets Manager, played by moto over the real wire."""

import sys
from pathlib import Path

import boto3
import botocore.exceptions

from .client import get
from .process import Process, free_port

REGION = "eu-west-1"
# moto takes any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "canary-of-aws"}


class Aws(Process):
    def __init__(self, directory):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        super().__init__("moto", [sys.executable, Path(__file__).with_name("moto_server.py"), self.port], directory)

    def start(self):
        super().start()
        self.wait_until(self._answers, "moto listens")
        self.secrets = boto3.client("secretsmanager", region_name=REGION, endpoint_url=self.address,
                                    aws_access_key_id="AKIATEST", aws_secret_access_key="test")
        return self

    def _answers(self):
        try:
            return get(self.port, "/moto-api/data.json").status == 200
        except OSError:
            return False

    def put(self, name, text, **more):
        """A new version of a secret, or its first; returns the version's id."""
        try:
            return self.secrets.put_secret_value(SecretId=name, SecretString=text, **more)["VersionId"]
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            return self.secrets.create_secret(Name=name, SecretString=text)["VersionId"]
