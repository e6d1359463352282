// Runs a k6 script on a simulated clock, and prints each request with the time at which it was sent.
//   node run.js SCRIPT 'JSON of __ENV' SECONDS_OF_AN_ANSWER
// The modules next to this file replace those of k6; the scenario runs as by the executor per-vu-iterations.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import exec, { clock, sent } from 'k6/execution';

const [script, environment, seconds] = process.argv.slice(2);
globalThis.__ENV = JSON.parse(environment);
globalThis.open = (name) => fs.readFileSync(path.join(path.dirname(script), name), 'utf8');
Date.now = () => clock.now;
clock.answer = Number(seconds) * 1000;

const { default: iteration, options, setup } = await import(pathToFileURL(script));
const { executor, vus, iterations } = options.scenarios.trace;
if (executor !== 'per-vu-iterations' || iterations !== 1) throw new Error(`another executor: ${executor}`);
const data = JSON.stringify(setup());
const start = clock.now;
for (let user = 1; user <= vus; user += 1) {
  exec.vu.idInTest = user;
  clock.now = start; // all users run at the same time
  iteration(JSON.parse(data));
}
console.log(JSON.stringify({ data: JSON.parse(data), options, sent }));
