// An OpenID provider on loopback: oidc-provider as it comes, with JWT access tokens (RFC 9068), resource indicators
// (RFC 8707), client credentials, the code flow, introspection, revocation, and token exchange (RFC 8693).
//
//   node provider.mjs '{"clients": […], "people": {"alice": {"groups": ["sre"]}}, "scopes": ["tools"]}'
//
// It says its issuer in one line, and then hears lines: `rotate` (another key signs; the former one stays published),
// `withdraw` (another key signs; the former ones are gone). It answers each with the key ids that it publishes.
// Whoever is named by `login_hint` is logged in and agrees: what is tried here is what comes after a login.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { createLocalJWKSet, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';

const wanted = JSON.parse(process.argv[2]);
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const TTL_S = wanted.ttl_s ?? 300;
const scopes = wanted.scopes ?? ['tools'];
const cookieKey = randomBytes(32).toString('hex');

function makeKey() {
  const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
  return { ...jwk, kid: randomBytes(8).toString('hex'), use: 'sig', alg: 'ES256' };
}

function publicSet(keys) {
  return createLocalJWKSet({ keys: keys.map(({ d, ...rest }) => rest) });
}

const resourceServer = (resource) => ({
  audience: resource,
  scope: scopes.join(' '),
  accessTokenTTL: TTL_S,
  accessTokenFormat: 'jwt',
  jwt: { sign: { alg: 'ES256' } },
});

const server = createServer();
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const issuer = `http://127.0.0.1:${server.address().port}`;
let keys = [makeKey()];
let current;

function makeProvider() {
  const provider = new Provider(issuer, {
    clients: wanted.clients.map((client) => ({ id_token_signed_response_alg: 'ES256', ...client })),
    jwks: { keys },
    cookies: { keys: [cookieKey] },
    scopes: ['openid', ...scopes],
    claims: { openid: ['sub', 'groups'] },
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'none'],
    clientDefaults: { grant_types: ['client_credentials'], response_types: [], redirect_uris: [] },
    ttl: { AccessToken: TTL_S, ClientCredentials: TTL_S },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => wanted.default_resource,
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, resource) => resourceServer(resource),
      },
    },
    formats: {
      customizers: { // what an exchanged token says of its subject and its actor
        jwt: (_ctx, token, jwt) => Object.assign(jwt.payload, token.exchanged),
      },
    },
    extraTokenClaims: (_ctx, token) =>
      token.accountId ? wanted.people?.[token.accountId] : wanted.agents?.[token.clientId],
    findAccount: (_ctx, id) =>
      wanted.people && id in wanted.people
        ? { accountId: id, claims: () => ({ sub: id, ...wanted.people[id] }) }
        : undefined,
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    renderError: (ctx, out) => {
      ctx.type = 'json';
      ctx.body = out;
    },
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  provider.use(agree(provider));
  provider.registerGrantType(
    EXCHANGE,
    exchange(provider),
    ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'resource',
     'audience', 'scope'],
  );
  return provider;
}

// The person that `login_hint` names logs in and agrees to what the client asks for.
function agree(provider) {
  return async (ctx, next) => {
    if (!ctx.path.startsWith('/interaction/')) return next();
    const { params, prompt, grantId } = await provider.interactionDetails(ctx.req, ctx.res);
    const result = {};
    if (prompt.name === 'login') result.login = { accountId: params.login_hint };
    const accountId = params.login_hint;
    const grant = (grantId && (await provider.Grant.find(grantId)))
      || new provider.Grant({ accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    if (params.resource) grant.addResourceScope(params.resource, scopes.join(' '));
    result.consent = { grantId: await grant.save() };
    ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result, { mergeWithLastSubmission: true }));
  };
}

// RFC 8693: a token of the same subject for another audience; who asks is the actor (§4.1). The subject's token must
// be one of ours, in time, and not be exchanged for more scopes than it has.
function exchange(provider) {
  return async (ctx) => {
    const { params, client } = ctx.oidc;
    if (params.subject_token_type !== ACCESS_TOKEN) {
      throw new errors.InvalidRequest('subject_token_type must be an access token');
    }
    let subject;
    try {
      subject = (await jwtVerify(params.subject_token ?? '', publicSet(keys), { issuer, typ: 'at+jwt' })).payload;
    } catch {
      throw new errors.InvalidGrant('subject_token is not one of ours that is valid');
    }
    const resource = params.resource ?? params.audience;
    if (!resource) throw new errors.InvalidTarget('resource or audience is missing');
    const had = (subject.scope ?? '').split(' ').filter(Boolean);
    const asked = params.scope ? params.scope.split(' ') : had;
    if (!asked.every((scope) => had.includes(scope))) throw new errors.InvalidScope('more than the subject has', params.scope);
    const info = resourceServer(resource);
    const token = new provider.ClientCredentials({ client, scope: asked.join(' ') || undefined });
    token.resourceServer = new provider.ResourceServer(resource, info);
    const earlier = subject.act ? { act: subject.act } : {};
    token.exchanged = { sub: subject.sub, act: { sub: client.clientId, ...earlier } };
    ctx.oidc.entity('ClientCredentials', token);
    ctx.body = {
      access_token: await token.save(),
      issued_token_type: ACCESS_TOKEN,
      token_type: 'Bearer',
      expires_in: token.expiration,
      scope: token.scope,
    };
  };
}

function renew(former) {
  keys = [makeKey(), ...former];
  current = makeProvider().callback();
}

renew([]);
server.on('request', (request, response) => current(request, response));
console.log(JSON.stringify({ issuer }));
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'rotate') renew(keys);
  else if (line === 'withdraw') renew([]);
  else break;
  console.log(JSON.stringify({ kids: keys.map((key) => key.kid) }));
}
process.exit(0);
