import { fileURLToPath } from 'node:url'
import type { BenchReport } from '../contract/result.ts'
import { STYLE } from './style.ts'

/** Nothing is loaded from anywhere: the page is whole. */
const POLICY =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

/**
 * The report as one HTML page that carries its data, its style and the code that draws it, and loads nothing.
 * The same sources draw {@link renderPictures}. Whatever a report's texts hold is shown as text.
 *
 * @returns the text of the page, in UTF-8, of about half a megabyte and the report
 */
export async function renderPage(report: BenchReport): Promise<string> {
  const script = await bundle()
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>What each DMA scheme costs, and what it still exposes</title>
<style>${STYLE}</style>
</head>
<body>
<div id="page"><noscript><p>This page draws its pictures by itself, so it needs JavaScript. Its data is in its text, as JSON.</p></noscript></div>
<script type="application/json" id="report">${JSON.stringify(report).replaceAll('<', '\\u003c')}</script>
<script type="module">${script}</script>
</body>
</html>
`
}

/** The code of the page as one text. Run from the sources it is made of sources, and compiled of what was compiled. */
async function bundle(): Promise<string> {
  const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  // Whoever only measures does not load what bundles.
  const { build } = await import('esbuild')
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`./client.${suffix}`, import.meta.url))],
    bundle: true,
    write: false,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'silent',
  })
  return outputFiles[0].text
}
