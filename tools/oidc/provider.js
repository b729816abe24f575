// A real OpenID provider on a free port of the loopback address, for tests: node provider.js FILE.
// It prints its address. FILE is JSON, read anew whenever somebody logs in:
// {"client": {…}, "accounts": {"alice": {"groups": ["ops"], …}}, "inToken": true, "idToken": 3600}
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const read = () => JSON.parse(readFileSync(process.argv[2], 'utf8'));
const start = read();
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [start.client],
    scopes: ['openid', 'profile', 'email', 'groups'],
    claims: { openid: ['sub'], profile: ['preferred_username'], email: ['email', 'email_verified'], groups: ['groups'] },
    conformIdTokenClaims: !start.inToken, // then claims are told at the userinfo endpoint alone
    cookies: { keys: ['of a test'] },
    ttl: { IdToken: start.idToken },
    pkce: { required: () => true },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...read().accounts[id] }) }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.on('end', () => process.exit(0)).resume(); // it ends with its test
