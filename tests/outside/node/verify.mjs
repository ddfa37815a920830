// Checks a Sigstore bundle with Sigstore's own JavaScript: node verify.mjs BUNDLE PUBLIC.PEM
//
// The key is handed over by whoever trusts it; no transparency log and no time stamp is asked for. Prints the signed
// payload. Exit status 0 when the signature holds, 1 with a sentence when it does not.
import { readFileSync } from "node:fs";
import { createPublicKey } from "node:crypto";
import { bundleFromJSON } from "@sigstore/bundle";
import { toSignedEntity, toTrustMaterial, Verifier } from "@sigstore/verify";

const [bundlePath, keyPath] = process.argv.slice(2);
try {
  const bundle = bundleFromJSON(JSON.parse(readFileSync(bundlePath, "utf8")));
  if (bundle.content.$case !== "dsseEnvelope") throw new Error("the bundle holds no DSSE envelope");
  const key = createPublicKey(readFileSync(keyPath)).export({ type: "spki", format: "der" });
  const trusted = toTrustMaterial(
    { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] },
    { [bundle.verificationMaterial.content.publicKey.hint]: { rawBytes: key } },
  );
  const verifier = new Verifier(trusted, { ctlogThreshold: 0, tlogThreshold: 0, timestampThreshold: 0 });
  verifier.verify(toSignedEntity(bundle));
  process.stdout.write(bundle.content.dsseEnvelope.payload);
} catch (error) {
  console.error(`FAIL ${error.message}`);
  process.exit(1);
}
