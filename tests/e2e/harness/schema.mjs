// Which of a manifest's fields its CustomResourceDefinition does not know or does not take.
//
// argv: the directory of the packages @kubernetes-models. stdin: manifests, a JSON array. stdout: for each an
// array of faults, or null where the packages have no schema for its kind. The validators are compiled
// and say nothing of unknown fields: those are the ones that they never look at.
import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PACKAGES = { "istio.io": "istio", "gateway.envoyproxy.io": "envoy-gateway", "gateway.networking.k8s.io": "gateway-api" };
const NAMES = {
  "gateway.envoyproxy.io": () => "ComGithubEnvoyproxyGatewayApi",
  "gateway.networking.k8s.io": () => "IoK8sSigsGatewayApiApis",
};
const camel = (text) => text.split(".").map((part) => part[0].toUpperCase() + part.slice(1)).join("");

function schemaOf(manifest) {
  const [group, version] = manifest.apiVersion.split("/");
  const known = Object.keys(PACKAGES).find((end) => group === end || group.endsWith(`.${end}`));
  if (!version || !known) return null;
  const name = (NAMES[group] ?? camel)(group) + camel(version) + manifest.kind;
  const file = `${process.argv[2]}/${PACKAGES[known]}/_schemas/${name}.js`;
  return existsSync(file) ? pathToFileURL(file).href : null;
}

// The value, and which of its members were asked for: `*` is all of them.
function watched(value, path, seen) {
  if (value === null || typeof value !== "object") return value;
  const asked = new Set();
  seen.set(path, { value, asked });
  return new Proxy(value, {
    get(target, key) {
      if (typeof key !== "string") return target[key];
      asked.add(key);
      return Object.hasOwn(target, key) ? watched(target[key], `${path}/${key}`, seen) : target[key];
    },
    has: (target, key) => (asked.add(key), key in target),
    ownKeys: (target) => (asked.add("*"), Reflect.ownKeys(target)),
  });
}

async function faults(manifest) {
  const schema = schemaOf(manifest);
  if (!schema) return null;
  const { validate } = await import(schema);
  const seen = new Map();
  if (!validate(watched(manifest, "", seen))) return validate.errors.map((error) => `${error.instancePath}: ${error.message}`);
  return [...seen].flatMap(([path, { value, asked }]) => {
    // Nobody looked into it: anything goes there.
    if (Array.isArray(value) || asked.size === 0 || asked.has("*")) return [];
    return Object.keys(value).filter((key) => !asked.has(key)).map((key) => `${path}/${key}: unknown`);
  });
}

let text = "";
for await (const chunk of process.stdin) text += chunk;
const found = [];
for (const manifest of JSON.parse(text)) found.push(await faults(manifest));
console.log(JSON.stringify(found));
