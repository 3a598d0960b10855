/** Return the address if a person may be sent there: this site, or https; otherwise null. */
export function safeURL(address: string, base?: string): string | null;
