import { playwright } from '@vitest/browser-playwright'
import { defineConfig } from 'vitest/config'
import { sentences } from './scripts/sentences/index.ts'

const soakMilliseconds = Number(process.env.SOAK_S ?? 60) * 1000

export default defineConfig({
  test: {
    maxWorkers: '100%',
    // A test's tags are the sentences of virtio 1.4 that it checks; a tag that is none fails the run.
    tags: sentences.map(({ key, level, asks }) => ({ name: key, description: `${level}: ${asks}` })),
    coverage: { provider: 'v8', include: ['packages/*/src/**/*.ts'] },
    projects: [
      {
        test: {
          name: 'unit',
          // Nothing here waits for a clock; a loaded machine may still be slow.
          testTimeout: 30_000,
          include: ['{packages,examples}/*/test/**/*.test.ts', '{bench,scripts}/test/**/*.test.ts'],
        },
      },
      {
        test: {
          name: 'soak',
          include: ['packages/*/test/**/*.soak.ts'],
          globalSetup: 'scripts/soak-setup.ts',
          testTimeout: soakMilliseconds + 60_000,
        },
      },
      {
        // Without these headers a page has no SharedArrayBuffer.
        server: {
          headers: { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' },
        },
        test: {
          name: 'browser',
          include: ['packages/*/test/**/*.browser.ts'],
          globalSetup: 'packages/bench/test/page/browser-setup.ts',
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            instances: [{ browser: 'chromium' }],
            provider: playwright({
              launchOptions: {
                executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
                args: [
                  '--no-sandbox',
                  '--disable-gpu',
                  '--disable-quic',
                  '--disable-background-networking',
                  '--disable-sync',
                ],
              },
            }),
          },
        },
      },
    ],
  },
})
