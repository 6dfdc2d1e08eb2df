// Verifies decisions of Placet's with com.nimbusds:nimbus-jose-jwt.
//
// NOT RUN: no test of Placet's compiles or runs this.

import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import java.net.URL;
import java.util.Set;

/** For one application: make it once, and keep it. */
public final class DecisionVerifier {
    private final DefaultJWTProcessor<SecurityContext> processor = new DefaultJWTProcessor<>();
    private final String clientId;

    public DecisionVerifier(URL jwksUri, String audience, String clientId, String issuer, JWSAlgorithm algorithm) {
        this.clientId = clientId;
        var keys = JWKSourceBuilder.create(jwksUri).build();
        processor.setJWSKeySelector(new JWSVerificationKeySelector<>(algorithm, keys));
        var exact = new JWTClaimsSet.Builder().issuer(issuer).build();
        processor.setJWTClaimsSetVerifier(
            new DefaultJWTClaimsVerifier<>(audience, exact, Set.of("exp", "iat", "nbf", "jti", "client_id", "htm", "htu")));
    }

    /** The claims of a decision for this request; `url` is what clients asked for. */
    public JWTClaimsSet verify(String token, String method, String url) throws Exception {
        var claims = processor.process(token, null);
        // No query: the decision is about method, scheme, host and path.
        var asked = url.split("\\?", 2)[0];
        if (!clientId.equals(claims.getStringClaim("client_id"))
            || !method.equals(claims.getStringClaim("htm"))
            || !asked.equals(claims.getStringClaim("htu"))) {
            throw new SecurityException("the decision is for another request");
        }
        return claims;
    }
}
