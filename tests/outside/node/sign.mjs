// Signs a request with http-message-signatures: node sign.mjs URL BODY KEYID ALG KEY > headers.json
//
// BODY and KEY are files: KEY is a private key in PEM for ed25519, the shared secret for hmac-sha256.
import { createHash, createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSigner, httpbis } from "http-message-signatures";

const [url, bodyPath, keyId, alg, keyPath] = process.argv.slice(2);
const body = readFileSync(bodyPath);
const raw = readFileSync(keyPath);
const key = createSigner(alg === "ed25519" ? createPrivateKey(raw) : raw, alg, keyId);
const headers = {
  "Content-Type": "application/json",
  "Content-Digest": `sha-512=:${createHash("sha512").update(body).digest("base64")}:`,
};
const fields = ["@method", "@target-uri", "@authority", "@path", "content-digest", "content-type"];
const signed = await httpbis.signMessage({ key, fields }, { method: "POST", url, headers });
process.stdout.write(JSON.stringify(signed.headers));
