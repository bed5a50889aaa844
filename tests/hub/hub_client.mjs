// What the npm client makes of a Hub: an independent reading of the protocol.
//     node hub_client.mjs PATH/TO/@huggingface/hub/dist/index.mjs ENDPOINT
import { createHash } from "node:crypto";
const [, , library, hubUrl] = process.argv;
const hub = await import(library);
const options = { hubUrl, accessToken: "hf_alice" };
const repo = { type: "model", name: "alice/from-npm" };
const bytes = new Uint8Array(300_000).map((_, place) => (place * 7919) % 251);
const digest = (data) => createHash("sha256").update(data).digest("hex");

const who = await hub.whoAmI(options);
await hub.createRepo({ ...options, repo, private: false });
const commit = await hub.uploadFiles({
  ...options,
  repo,
  commitTitle: "from npm",
  useXet: false,
  files: [
    { path: "weights.safetensors", content: new Blob([bytes]) },
    { path: "README.md", content: new Blob(["---\nlicense: mit\ntags: [npm]\n---\nhi"]) },
  ],
});
const files = [];
for await (const file of hub.listFiles({ ...options, repo, recursive: true })) files.push(file.path);
const blob = await hub.downloadFile({ ...options, repo, path: "weights.safetensors", xet: false });
const info = await hub.modelInfo({ ...options, name: repo.name });
const listed = [];
for await (const model of hub.listModels({ ...options, search: { owner: "alice" } })) listed.push(model.name);
const theirs = await hub.downloadFile({ ...options, repo: { type: "dataset", name: "alice/thing" }, path: "data/train-00000-of-00003.parquet", xet: false });
let refused = "";
try {
  await hub.createRepo({ ...options, repo: { type: "model", name: "bob/x" } });
} catch (error) {
  refused = error.statusCode;
}
console.log(
  JSON.stringify({
    name: who.name,
    commit: commit.commit.oid,
    files: files.sort(),
    same: digest(new Uint8Array(await blob.arrayBuffer())) === digest(bytes),
    private: info.private,
    listed,
    theirs: digest(new Uint8Array(await theirs.arrayBuffer())),
    refused,
  }),
);
