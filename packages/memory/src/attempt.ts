/**
 * Runs one step of a release: what it throws is added to `errors`, so that the steps after it are tried as well. Whoever
 * began throws the first error at the end. Returns whether the step succeeded.
 */
export function attempt(errors: unknown[], step: () => void): boolean {
  try {
    step()
    return true
  } catch (error) {
    errors.push(error)
    return false
  }
}
