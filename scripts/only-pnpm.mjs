// `prepack` of every published package. Only pnpm rewrites `publishConfig.exports`, `workspace:` and `catalog:` when it
// packs; a tarball made by another tool would point at sources and at versions that do not exist.
const agent = process.env.npm_config_user_agent ?? ''
if (!agent.startsWith('pnpm/')) {
  console.error(`Refused: pack and publish with pnpm, not with ${agent.split('/')[0] || 'this tool'}.`)
  console.error('Only `pnpm pack` and `pnpm publish` rewrite publishConfig, workspace: and catalog: in package.json.')
  process.exit(1)
}
