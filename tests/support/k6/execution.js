// k6/execution, and the simulated clock.
export const clock = { now: 1_000_000, answer: 0 }; // milliseconds
export const sent = [];
export default { vu: { idInTest: 0 } };
