// The part of WebAssembly that the project uses. Browsers and Node both have it; its types come with the DOM's only.
// A public signature should not mention it, since user projects may lack those.

declare namespace WebAssembly {
  interface Memory {
    readonly buffer: ArrayBuffer | SharedArrayBuffer
    grow(pages: number): number
  }
  const Memory: { new (descriptor: { initial: number; maximum?: number; shared?: boolean }): Memory; prototype: Memory }
}
