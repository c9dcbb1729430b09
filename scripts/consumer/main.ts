// What a user's first program looks like. `pnpm check:tarballs` runs it against the packed packages under every
// supported Node, and type-checks it under every supported TypeScript.
import * as guestdma from 'guestdma'

if (typeof guestdma !== 'object') throw new Error('guestdma exports nothing')
