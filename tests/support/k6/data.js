// k6/data: elements of a shared array are copies.
export class SharedArray {
  constructor(name, make) {
    const texts = make().map((each) => JSON.stringify(each));
    return new Proxy(texts, { get: (all, key) => (/^\d+$/.test(String(key)) ? JSON.parse(all[key]) : all[key]) });
  }
}
