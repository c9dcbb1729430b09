// Plain JavaScript for any Node from 18 on: it has to run exactly where the pinned Node is missing.
const wanted = 26
const found = process.versions.node
if (Number(found.split('.')[0]) < wanted) {
  console.error(`This command needs Node ${wanted}, which the workspace brings along, but it runs under Node ${found}.`)
  console.error('The install before it has probably failed. Look at its output above, then run')
  console.error('  npx -y pnpm@12.21.0 install')
  console.error('and try again. (On a system without a pinned Node, such as Windows, install Node 26 yourself.)')
  process.exit(1)
}
