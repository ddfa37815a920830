"""VERIFY.md: how a stranger checks the zip with tools of everybody, to be pasted into a shell.

Every block stands by itself, says what it proves and to whom, ends in OK, and fails otherwise. Tests paste them.
They are pasted in a folder that a forger may have filled: `-I` keeps Python from importing what lies there, and from
an environment that leaves asserts out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from agentgate.core.dsse import PREDICATE_TYPE, PublicKey
from agentgate.core.evidence.pack import Pack

_ENVELOPE_KEY: Final = "keys/envelope.pub.pem"

_INTRODUCTION: Final = """\
# Check this evidence pack

{what}
Pack id (SHA-256 of `pack.json`): `{pack_id}`

Nothing here asks you to trust this file, this zip, or who gave it to you. What you need from elsewhere, once, from
somebody who runs the gateway and in a way that you trust: the fingerprints of its two public keys, or its HMAC key
(`agentgate evidence keys` prints the fingerprints). The zip has the keys in `keys/`: compare, do not believe.

Unpack it into a new folder (`unzip PACK.zip -d pack && cd pack`), and paste. You need `openssl` 3, `sha256sum` and
`python3`, as they come. Each block after the first ends with `OK`; anything else means that this part does not hold.

```sh
openssl pkey -pubin -in keys/envelope.pub.pem -outform DER | sha256sum   # is it the one that you were told?
cat -v keys/log.vkey                                                     # and this?
```
"""

_ENVELOPE: Final = """
## 1. The gateway made every file, and none was changed, added or taken out

It convinces whoever knows the gateway's envelope key. `pack.dsse.json` is a DSSE envelope around an in-toto statement
with the SHA-256 of every other file, and a signature.

```sh
python3 -I - <<'END'
import base64, json, pathlib
envelope = json.loads(pathlib.Path("pack.dsse.json").read_bytes())
kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
pathlib.Path("../signed").write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload))
pathlib.Path("../signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
files = {{one["name"]: one["digest"]["sha256"] for one in json.loads(payload)["subject"]}}
pathlib.Path("../sums").write_text("".join(f"{{digest}}  {{name}}\\n" for name, digest in files.items()))
here = {{str(path) for path in pathlib.Path(".").rglob("*") if path.is_file()}}
others = here - set(files) - {{"pack.dsse.json", "pack.sigstore.json", "pack.dsse.tsr"}}
assert not others, f"not signed: {{others}}"
assert json.loads(pathlib.Path("pack.sigstore.json").read_bytes())["dsseEnvelope"] == envelope, "another bundle"
is_stamped = json.loads(payload)["predicate"].get("timestamp") is True
assert is_stamped == ("pack.dsse.tsr" in here), "a time stamp put in or taken out"
END
[ $? = 0 ] && {verify} &&
    sha256sum --check --strict --quiet ../sums && echo OK
```
"""

_VERIFY_ECDSA: Final = "openssl dgst -sha256 -verify keys/envelope.pub.pem -signature ../signature ../signed"
_VERIFY_ED25519: Final = (
    "openssl pkeyutl -verify -pubin -inkey keys/envelope.pub.pem -rawin -in ../signed -sigfile ../signature"
)

_LOG: Final = """
## 2. Each event stands in the log, unaltered, at its index

It convinces whoever knows the log's key. `checkpoint` is the log's signed state, with {size} events and the root of
their Merkle tree (RFC 6962); `proofs/` leads from each event in `leaves/` to that root (formats: c2sp.org).

```sh
python3 -I - <<'END'
import base64, hashlib, pathlib
name, told, key = pathlib.Path("keys/log.vkey").read_text().strip().split("+", 2)
key = base64.b64decode(key, validate=True)  # all of what was shown above, and nothing else
hashed = hashlib.sha256(name.encode() + b"\\n" + key).digest()[:4]
assert len(key) == 33 and key[0] == 1 and hashed.hex() == told, "no Ed25519 vkey"
text, _, lines = pathlib.Path("checkpoint").read_bytes().rpartition(b"\\n\\n")
assert text.split(b"\\n")[0] == name.encode(), "another log"
made = next(m for m in (base64.b64decode(line.split(b" ")[2]) for line in lines.splitlines()) if m[:4] == hashed)
pathlib.Path("../note").write_bytes(text + b"\\n")
pathlib.Path("../note.sig").write_bytes(made[4:])
pathlib.Path("../log.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + key[1:])
END
[ $? = 0 ] && openssl pkeyutl -verify -pubin -keyform DER -inkey ../log.der -rawin -in ../note -sigfile ../note.sig &&
    python3 -I - <<'END'
import base64, hashlib, json, pathlib
sha256 = lambda raw: hashlib.sha256(raw).digest()
note = pathlib.Path("checkpoint").read_bytes()
size, root = int(note.split(b"\\n")[1]), base64.b64decode(note.split(b"\\n")[2])
events = json.loads(pathlib.Path("pack.json").read_bytes())["integrity"]["events"]
files = {{str(p): p.read_bytes() for name in ("leaves", "proofs", "bodies") for p in pathlib.Path(name).rglob("*")}}
for event in events:
    at = event["index"]
    leaf = files.pop(f"leaves/{{at}}.json")
    proof, _, checkpoint = files.pop(f"proofs/{{at}}.tlog-proof").partition(b"\\n\\n")
    version, index, *path = proof.decode().split("\\n")
    assert type(at) is int and 0 <= at < size and leaf.decode() == event["leaf"], event
    assert index == f"index {{at}}" and checkpoint == note, event
    node, last, found = at, size - 1, sha256(b"\\0" + leaf)
    for sibling in map(base64.b64decode, path):  # RFC 9162, section 2.1.3.2
        assert last, event
        if node & 1 or node == last:
            found = sha256(b"\\1" + sibling + found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = sha256(b"\\1" + found + sibling)
        node, last = node >> 1, last >> 1
    assert last == 0 and found == root, event
    body = files.pop(f"bodies/{{at}}.json", None)  # what was said; gone where it was pruned
    if body is not None:
        salt = bytes.fromhex(event["salt"])
        assert len(salt) == 16 and json.loads(leaf)["body_sha256"] == sha256(salt + body).hex(), event
assert not files, files.keys()
print(len(events), "events of", size, "OK")
END
```

That the log was never rewritten is shown to whoever kept an earlier checkpoint of it, and by witnesses: further
signature lines in `checkpoint`. Ask for the pack with `&checkpoint_size=` and the size of yours; the proof is then in
`consistency/` (c2sp.org/tlog-witness), and `agentgate verify PACK.zip --checkpoint YOURS` checks it.
"""

_HMAC: Final = """
## 3. The views are as they were made

It convinces whoever holds the HMAC key, and proves nothing to others: each holder could have made it. `pack.html` and
`pack.pdf` show what `pack.json` says.

```sh
: "${{AGENTGATE_SIGNING_KEY:?set it to the HMAC key}}"
python3 -I - <<'END'
import hashlib, hmac, os, pathlib
key = os.environ["AGENTGATE_SIGNING_KEY"].encode()
for view in "pack.html", "pack.json", "pack.pdf":
    made = hmac.new(key, pathlib.Path(view).read_bytes(), hashlib.sha256).hexdigest()
    assert hmac.compare_digest(made, pathlib.Path(f"{{view}}.hmac").read_text().strip()), view
    print(view, "OK")
END
```
"""

_MORE: Final = """
## With other programs

`agentgate verify` does all of this at once, offline, and rebuilds every section of `pack.json` from the events. Give it
the keys that you have from elsewhere: with those in `keys/` it would find a forger's pack in order, too.

    agentgate verify PACK.zip --trust YOUR-envelope.pub.pem --trust YOUR-log.vkey

Go's `golang.org/x/mod/sumdb/note` and `.../tlog` check part 2: they read `checkpoint` and `proofs/`. cosign checks
part 1. It asks no public log, because this log is the gateway's own:

    cosign verify-blob-attestation --key keys/envelope.pub.pem --bundle pack.sigstore.json \\
        --insecure-ignore-tlog --type {predicate} pack.json

If `pack.dsse.tsr` is there, an authority (RFC 3161) says when the signature of part 1 existed, to who trusts it:

    openssl ts -verify -data ../signature -in pack.dsse.tsr -CAfile THE-AUTHORITY.pem
"""


def verify_md(pack: Pack, files: Mapping[str, bytes]) -> bytes:
    """For the pack in `files`; the same for the same files."""
    key = PublicKey.from_pem(files[_ENVELOPE_KEY])
    integrity = pack.body["integrity"]
    told = pack.body["metadata"]["scope"]
    parts = [
        _INTRODUCTION.format(
            what=f"{integrity['event_count']} events: " + ", ".join(f"{name} `{told[name]}`" for name in told) + ".",
            pack_id=hashlib.sha256(pack.raw).hexdigest(),
        ),
        _ENVELOPE.format(verify=_VERIFY_ED25519 if key.algorithm == "ed25519" else _VERIFY_ECDSA),
        _LOG.format(size=integrity["checkpoint"]["size"]),
    ]
    if "pack.json.hmac" in files:
        parts.append(_HMAC.format())
    return "".join([*parts, _MORE.format(predicate=PREDICATE_TYPE)]).encode()
