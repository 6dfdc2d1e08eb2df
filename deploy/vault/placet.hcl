# What Placet needs in Vault or OpenBao, and nothing more:
#
#   bao policy write placet deploy/vault/placet.hcl
#   bao kv put secret/placet/keys orders=@orders.pem
#
# The paths fit `mount: secret` and a `pathToKey` or `defaultPath` under `placet/`. Give each Placet
# only the keys of the scopes it serves: who can read a key can sign as that scope.

# The keys (KV version 2). With KV version 1 the path is `secret/placet/*`.
path "secret/data/placet/*" {
  capabilities = ["read"]
}

# Their versions and ages, so that replicas and restarts agree on which key signs.
path "secret/metadata/placet/*" {
  capabilities = ["read"]
}

# For scopes with `backend: transit` whose `keyName` begins with `placet-`: signing, and the public
# halves. Leave out what is not used.
path "transit/sign/placet-*" {
  capabilities = ["update"]
}
path "transit/keys/placet-*" {
  capabilities = ["read"]
}

# Renewing the login, and looking at a token that was made elsewhere. The policy `default`, which
# logins get unless told otherwise, has both.
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
