// Verifies a decision of Placet's with jose (`npm install jose`).
//
// As a command, with the token on standard input: node verify.mjs JWKS_URI AUDIENCE CLIENT_ID METHOD URL
import { readFileSync, realpathSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { createRemoteJWKSet, jwtVerify } from 'jose'

// For one application: make it once, and keep it. Keys are fetched when needed and kept for five minutes.
export function verifier(jwksUri, audience, clientId, issuer = 'placet') {
  const keys = createRemoteJWKSet(new URL(jwksUri), { cacheMaxAge: 300_000, timeoutDuration: 2_000 })
  // The claims of a decision for this request; throws if it is none.
  return async function verify(token, method, url) {
    const { payload } = await jwtVerify(token, keys, {
      issuer,
      audience,
      algorithms: ['ES256', 'ES384', 'EdDSA', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
      requiredClaims: ['exp', 'iat', 'nbf', 'jti'],
    })
    // No query: the decision is about method, scheme, host and path.
    const expected = { client_id: clientId, htm: method, htu: url.split('?')[0] }
    for (const [name, value] of Object.entries(expected)) {
      if (payload[name] !== value) throw new Error(`${name} is not ${value}`)
    }
    return payload
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [jwksUri, audience, clientId, method, url] = process.argv.slice(2)
  try {
    const claims = await verifier(jwksUri, audience, clientId)(readFileSync(0, 'utf8').trim(), method, url)
    console.log(JSON.stringify(claims))
  } catch (error) {
    console.error(`refused: ${error.message}`)
    process.exitCode = 1
  }
}
