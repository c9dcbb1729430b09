/** Pages and pictures that were made under Node, for tests in a browser. */
interface MadePages {
  /** All parts are there. */
  readonly whole: string
  /** Results of two schemes, and nothing else. */
  readonly bare: string
  /** A run that was stopped before its first result, with a failure. */
  readonly partial: string
  /** Names and texts that hold HTML. */
  readonly hostile: string
  /** SVG texts of the whole report and of the hostile one. */
  readonly pictures: readonly string[]
}

declare module 'vitest' {
  interface ProvidedContext {
    reportPages: MadePages
  }
}

export {}
