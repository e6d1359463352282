// k6: each sleep passes at once, and checks are counted as k6 counts them.
import { clock } from 'k6/execution';

export function sleep(seconds) {
  if (!(seconds > 0)) throw new Error(`sleep(${seconds})`);
  clock.now += seconds * 1000;
}

export function check(value, checks) {
  return Object.values(checks).every((each) => each(value));
}
