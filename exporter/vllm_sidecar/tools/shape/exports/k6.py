"""Grafana k6: a script that sends each request of the trace at its time.

Source: grafana.com/docs/k6, scenarios and executors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllm_sidecar.tools.shape.exports import trace

if TYPE_CHECKING:
    from vllm_sidecar.tools.shape.profile import Profile

LIMITS = (
    "k6 reads an answer as a whole, so it measures request times but neither TTFT nor ITL; see the sidecar for them"
)
MOST_USERS = 2000

_SCRIPT = """\
// Replays the trace next to this file: its times, lengths and shared prefixes.
//   k6 run k6.js -e URL=http://localhost:8000 -e API_KEY=... -e VOCABULARY=30000
// Prompts are lists of token ids below VOCABULARY, which must not exceed that of the model.
import http from 'k6/http';
import exec from 'k6/execution';
import { check, sleep } from 'k6';
import { SharedArray } from 'k6/data';

const URL = __ENV.URL || @URL@;
const MODEL = __ENV.MODEL || @MODEL@;
const VOCABULARY = Number(__ENV.VOCABULARY || 30000);
const BLOCK = @BLOCK@;
const ADAPTERS = @ADAPTERS@;
const LEAST_ID = 100; // special tokens are among the first

const requests = new SharedArray('trace', () =>
  open('./@TRACE@').trim().split('\\n').map((line) => JSON.parse(line))
);

export const options = {
  scenarios: {
    // Each virtual user sends every VUS-th request, at its time.
    trace: { executor: 'per-vu-iterations', vus: @USERS@, iterations: 1, maxDuration: '@SECONDS@s' },
  },
  thresholds: { checks: ['rate>0.99'] },
};

export function setup() {
  return { began: Date.now() + 2000 };
}

function tokens(request) {
  const ids = [];
  for (const hash of request.hash_ids) {
    let state = (hash + 1) % 2147483647; // Lehmer's generator: equal hashes give equal tokens
    for (let place = 0; place < BLOCK && ids.length < request.input_length; place += 1) {
      state = (state * 48271) % 2147483647;
      ids.push(LEAST_ID + (state % (VOCABULARY - LEAST_ID)));
    }
  }
  return ids;
}

function model() {
  let left = Math.random();
  for (const [name, share] of ADAPTERS) {
    left -= share;
    if (left < 0) return name;
  }
  return MODEL;
}

export default function (data) {
  const headers = { 'Content-Type': 'application/json' };
  if (__ENV.API_KEY) headers.Authorization = `Bearer ${__ENV.API_KEY}`;
  for (let at = exec.vu.idInTest - 1; at < requests.length; at += @USERS@) {
    const request = requests[at];
    const body = JSON.stringify({
      model: model(), prompt: tokens(request), max_tokens: request.output_length,
      ignore_eos: true, stream: false,
    });
    const wait = (data.began - Date.now()) / 1000 + request.timestamp;
    if (wait > 0) sleep(wait);
    const answer = http.post(`${URL}/v1/completions`, body, { headers, timeout: '600s' });
    check(answer, { 'status is 200': (each) => each.status === 200 });
  }
}
"""


def files(profile: Profile, url: str) -> dict[str, str]:
    """Return the script."""
    values = {
        "URL": json.dumps(url),
        "MODEL": json.dumps(profile.model),
        "BLOCK": str(profile.prefix.block_tokens),
        "ADAPTERS": json.dumps(list(profile.adapters.items())),
        "TRACE": trace.NAME,
        "USERS": str(max(1, min(MOST_USERS, len(profile.replay.at)))),
        "SECONDS": str(round(profile.window.seconds) + 1200),
    }
    script = _SCRIPT
    for name, value in values.items():
        script = script.replace(f"@{name}@", value)
    return {"k6.js": script}
