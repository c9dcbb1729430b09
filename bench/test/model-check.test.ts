import { describe, expect, it } from 'vitest'
import type { ModelCheckFigure } from '../src/model-check.ts'
import { MODEL_CHECK, percent, predict } from '../src/model-check-report.ts'

// Measured: 200 ns more than 100 ns of `direct`. The model has 50 of them, and our code another 50.
const figure: ModelCheckFigure = {
  peer: 'testpmd',
  work: 'net 64 B',
  backend: 'shared-pool',
  direct: 100,
  measured: 200,
  ratio: 3,
  causes: { copies: 40, doorbells: 10 },
  modelled: 50,
  code: 50,
  counters: { bytesCopiedToDevice: 400 },
  parameters: { copyByte: 0.1 },
}

describe('the model against what was measured', () => {
  it('predicts the ratio to direct from what is counted, and the error is relative to the measured ratio', () => {
    expect(predict(figure, 'counters')).toEqual({ ratio: 1.5, error: -0.5 })
    expect(predict(figure, 'counters and code')).toEqual({ ratio: 2, error: 2 / 3 - 1 })
  })

  it('an error has a sign: more than nothing where the prediction is too high', () => {
    expect(predict({ ...figure, ratio: 1.2 }, 'counters').error).toBeCloseTo(0.25)
    expect([percent(0.25), percent(-0.5)]).toEqual(['+25 %', '−50 %'])
  })

  it('the report has both errors of each row, and each parameter', () => {
    const text = MODEL_CHECK.format([figure])
    expect(text).toMatch(/^net 64 B +shared-pool +100 +200 +50 +50 +3\.00 +1\.50 +−50 % +2\.00 +−33 %$/m)
    expect(text).toMatch(/^net 64 B +shared-pool +copyByte +0\.100$/m)
  })
})
