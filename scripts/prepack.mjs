// `prepack` of every published package, run in its folder: refuses to make a tarball that nobody could use.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

// Only pnpm rewrites `publishConfig.exports`, `workspace:` and `catalog:` when it packs; a tarball made by another tool
// would point at sources and at versions that do not exist.
const agent = process.env.npm_config_user_agent ?? ''
if (!agent.startsWith('pnpm/')) {
  refuse(
    `pack and publish with pnpm, not with ${agent.split('/')[0] || 'this tool'}.`,
    'Only `pnpm pack` and `pnpm publish` rewrite publishConfig, workspace: and catalog: in package.json.',
  )
}

// `exports` of a tarball names files of `dist`, which git does not hold.
const stale = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .find((file) => {
    const built = join('dist', file.replace(/\.ts$/, '.js'))
    return !existsSync(built) || statSync(built).mtimeMs < statSync(join('src', file)).mtimeMs
  })
if (stale !== undefined) {
  refuse(
    `dist is missing or older than src (${join('src', stale)}).`,
    'Run `pnpm build` in the root of the repository, then pack again.',
  )
}

function refuse(why, advice) {
  console.error(`Refused: ${why}\n${advice}`)
  process.exit(1)
}
