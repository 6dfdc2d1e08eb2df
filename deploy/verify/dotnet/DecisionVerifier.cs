// Verifies decisions of Placet's with Microsoft.IdentityModel.JsonWebTokens.
//
// NOT RUN: no test of Placet's compiles or runs this.

using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

/// <summary>For one application. `keys` returns the scope's current key set: fetch it from
/// /scopes/CLIENT_ID/jwks.json every five minutes, and keep the last good one.</summary>
public sealed class DecisionVerifier(Func<JsonWebKeySet> keys, string audience, string clientId, string issuer)
{
    private readonly JsonWebTokenHandler handler = new();

    /// <summary>The verified token of a decision for this request; `url` is what clients asked for.</summary>
    public async Task<JsonWebToken> VerifyAsync(string token, string method, string url)
    {
        var result = await handler.ValidateTokenAsync(token, new TokenValidationParameters
        {
            ValidIssuer = issuer,
            ValidAudience = audience,
            IssuerSigningKeys = keys().GetSigningKeys(),
            ValidAlgorithms = ["ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            RequireExpirationTime = true,
            RequireSignedTokens = true,
            ClockSkew = TimeSpan.FromSeconds(5),
        });
        if (!result.IsValid) throw new SecurityTokenException("not a decision of Placet's", result.Exception);
        var decision = (JsonWebToken)result.SecurityToken;
        // No query: the decision is about method, scheme, host and path.
        var expected = new Dictionary<string, string> { ["client_id"] = clientId, ["htm"] = method, ["htu"] = url.Split('?', 2)[0] };
        foreach (var (name, value) in expected)
            if (!decision.TryGetPayloadValue<string>(name, out var claim) || claim != value)
                throw new SecurityTokenException($"{name} is not {value}");
        return decision;
    }
}
