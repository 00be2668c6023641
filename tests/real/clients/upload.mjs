// A streamed upload by Node's own fetch: node upload.mjs URL BYTES. It prints the status and the body of the answer.
const [url, bytes] = process.argv.slice(2);
const piece = new Uint8Array(65536);
let left = Number(bytes);
const body = new ReadableStream({
  pull(controller) {
    if (left <= 0) return controller.close();
    controller.enqueue(piece.subarray(0, Math.min(left, piece.length)));
    left -= piece.length;
  },
});
const answer = await fetch(url, { method: "POST", body, duplex: "half" });
console.log(`${answer.status} ${await answer.text()}`);
