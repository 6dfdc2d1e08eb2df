// Verifies a decision token with npm's jose: {token, jwks, issuer, audience} on standard input, its claims on standard output.
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const { createLocalJWKSet, jwtVerify } = await import(pathToFileURL(process.argv[2]))
const { token, jwks, issuer, audience } = JSON.parse(readFileSync(0))
const { payload } = await jwtVerify(token, createLocalJWKSet(jwks), { issuer, audience: audience ?? undefined })
console.log(JSON.stringify(payload))
