import { PeerError } from '../../src/index.ts'

/** Which rule a peer of a ring says was broken: the message of the PeerError that `body` throws. */
export function rule(body: () => unknown): string {
  try {
    body()
  } catch (error) {
    return error instanceof PeerError ? error.message : `not a PeerError: ${error}`
  }
  return 'nothing was thrown'
}
