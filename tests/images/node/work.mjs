// What Node agents do all day, one line of standard output for each thing done.

import { execFile, fork, spawn } from "node:child_process";
import crypto from "node:crypto";
import { once } from "node:events";
import fs from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import zlib from "node:zlib";

const RUNTIME = "/agent/runtime";
const FILE = fileURLToPath(import.meta.url);
const run = promisify(execFile);
const said = (name, answer) => console.log(`${name}: ${answer}`);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

async function workers() {
  const crew = [1, 2, 3, 4].map((workerData) => once(new Worker(FILE, { workerData }), "message"));
  return sum((await Promise.all(crew)).flat());
}

async function children() {
  const { stdout } = await run(process.execPath, ["-p", "6 * 7"]);
  const forked = fork(FILE, ["child"]);
  forked.send(20);
  const [answer] = await once(forked, "message");
  const upper = spawn("tr", ["a-z", "A-Z"]);
  upper.stdin.end("loud");
  const [loud] = await once(upper.stdout, "data");
  return `${stdout.trim()} ${answer} ${loud}`;
}

async function secrets() {
  const keys = await Promise.all(["a", "b", "c", "d"].map((it) => promisify(crypto.scrypt)(it, "salt", 32)));
  const { privateKey, publicKey } = await promisify(crypto.generateKeyPair)("ed25519");
  const message = Buffer.concat(keys);
  const signed = crypto.verify(null, message, publicKey, crypto.sign(null, message, privateKey));
  const digest = Buffer.from(await crypto.webcrypto.subtle.digest("SHA-256", Buffer.from("curb")));
  return `signed ${signed}, ${digest.toString("hex").slice(0, 8)}, ${crypto.randomBytes(16).length} random bytes`;
}

async function files() {
  const write = async (number) => {
    const path = `${RUNTIME}/file-${number}`;
    await fs.writeFile(`${path}.new`, `${number}\n`.repeat(1000));
    await fs.rename(`${path}.new`, path);
    return (await fs.readFile(path, "utf8")).trim().split("\n").map(Number);
  };
  const lines = (await Promise.all(Array.from({ length: 20 }, (_, number) => write(number)))).flat();
  const handle = await fs.open(`${RUNTIME}/file-1`);
  await pipeline(handle.createReadStream(), zlib.createGzip(), (await fs.open(`${RUNTIME}/packed`, "w")).createWriteStream());
  const names = (await fs.readdir(RUNTIME)).filter((name) => name.startsWith("file-"));
  return `${lines.length} lines, sum ${sum(lines)}, ${names.length} files`;
}

async function requests() {
  const server = http.createServer((request, response) => response.end(request.url.slice(1))).listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${server.address().port}`;
  const ask = async (number) => Number(await (await fetch(`${url}/${number}`)).text());
  const answers = await Promise.all(Array.from({ length: 50 }, (_, number) => ask(number)));
  server.closeAllConnections();
  server.close();
  return sum(answers);
}

async function npmInstall() {
  const library = `${RUNTIME}/beat`;
  const project = `${RUNTIME}/project`;
  await fs.mkdir(library);
  await fs.mkdir(project);
  await fs.writeFile(`${library}/package.json`, JSON.stringify({ name: "beat", version: "1.0.0", main: "index.js" }));
  await fs.writeFile(`${library}/index.js`, "module.exports = () => 'beat 1.0';\n");
  await fs.writeFile(`${project}/package.json`, JSON.stringify({ name: "project", version: "1.0.0", scripts: { test: "node use.js" } }));
  await fs.writeFile(`${project}/use.js`, "console.log(require('beat')());\n");
  await run("npm", ["pack", "--pack-destination", RUNTIME], { cwd: library });
  await run("npm", ["install", "--offline", "--no-audit", "--no-fund", "../beat-1.0.0.tgz"], { cwd: project });
  const { stdout } = await run("npm", ["run", "--silent", "test"], { cwd: project });
  return `${createRequire(`${project}/`)("beat")()}, by script ${stdout.trim()}`;
}

async function wasm() {
  // (module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
  const code = "0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b";
  const { instance } = await WebAssembly.instantiate(Buffer.from(code, "hex"));
  return instance.exports.add(40, 2);
}

if (!isMainThread) {
  let total = 0;
  for (let number = 0; number < 1e6; number++) total += workerData;
  parentPort.postMessage(total);
} else if (process.argv[2] === "child") {
  process.once("message", (number) => process.send(number + 1, () => process.disconnect()));
} else {
  said("worker threads", await workers());
  said("child processes", await children());
  said("crypto", await secrets());
  said("fs", await files());
  said("http", await requests());
  said("wasm", await wasm());
  said("npm", await npmInstall());
}
