/** A smaller machine than by default, to keep the run short. */
export const small = { ramBytes: 4 << 20, arenaBytes: 1 << 18 }
