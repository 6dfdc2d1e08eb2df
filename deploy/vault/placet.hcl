# What Placet may do in Vault or OpenBao: read the signing keys under one path, and keep its own token alive.
#
#   bao policy write placet deploy/vault/placet.hcl
#   bao kv put secret/placet/keys orders=@orders.pem
#
# Change `secret` and `placet` where your KV mount and path are others. For a KV version 1 mount the
# path has no `data/`, and the second block is not needed.

path "secret/data/placet/*" {
  capabilities = ["read"]
}

# The age of each key version, for rotation.
path "secret/metadata/placet/*" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
