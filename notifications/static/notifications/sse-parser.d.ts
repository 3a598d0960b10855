/** The event stream parser of the HTML standard (§9.2.6): bytes in, events out. */
export class SSEParser {
  /** @param id the last event id of the stream that is being resumed */
  constructor(port: { event(type: string, id: string, data: string): void; retry?(ms: number): void }, id?: string);
  /** Take the next bytes; what is unfinished at the end of the stream is dropped. */
  push(bytes: Uint8Array): void;
}
