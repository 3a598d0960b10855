/** The event stream parser of the HTML standard (§9.2.6), free of I/O: bytes in, events out. */
export class SSEParser {
  #decoder = new TextDecoder(); // also drops one leading byte order mark
  #line = "";
  #afterCR = false; // the last character was CR: a LF that follows belongs to it, even in the next chunk
  #data = null;
  #type = "";
  #id = "";
  #port;

  constructor(port, id = "") {
    this.#port = port;
    this.#id = id;
  }

  /** Take the next bytes; what is unfinished at the end is dropped, as the standard says. */
  push(bytes) {
    const text = this.#decoder.decode(bytes, { stream: true });
    let start = this.#afterCR && text[0] === "\n" ? 1 : 0;
    if (text) this.#afterCR = false;
    const ends = /\r\n?|\n/g;
    ends.lastIndex = start;
    for (let match; (match = ends.exec(text)); start = ends.lastIndex) {
      this.#afterCR = match[0] === "\r" && ends.lastIndex === text.length;
      this.#finish(this.#line + text.slice(start, match.index));
      this.#line = "";
    }
    this.#line += text.slice(start);
  }

  #finish(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.#port.retry?.(Number(value));
  }

  #dispatch() {
    const [type, data] = [this.#type, this.#data];
    this.#type = "";
    this.#data = null;
    if (data !== null) this.#port.event(type || "message", this.#id, data);
  }
}
