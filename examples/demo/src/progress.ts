/** One line that is overwritten on a terminal; nothing at all in a pipe. */
export class Progress {
  private readonly stream: NodeJS.WriteStream

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.stream = stream
  }

  show(text: string): void {
    if (this.stream.isTTY) this.stream.write(`\r\x1b[K${text}`)
  }

  clear(): void {
    if (this.stream.isTTY) this.stream.write('\r\x1b[K')
  }
}
