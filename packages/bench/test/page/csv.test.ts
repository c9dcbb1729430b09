import { renderCsv } from '@guestdma/bench'
import { describe, expect, it } from 'vitest'
import { reportOf, row } from '../support/cost-rows.ts'

describe('comma-separated values', () => {
  it('have a header and one line for each result, each ended by CR and LF (RFC 4180, 2.1 to 2.3)', () => {
    const text = renderCsv(reportOf([row({ counters: { notified: 0.5 } })]))
    expect(text).toBe(
      'driver,operation,backend,mode,ring,bytes,batch,buffers,nsMedian,nsP05,nsP95,samples,bytesAllocatedPerOperation,counter:notified\r\n' +
        'net,transmit,direct,map,split,64,32,warm,100,90,110,10,0,0.5\r\n',
    )
  })

  it('have a column for each counter of any result, empty where a result has it not', () => {
    const text = renderCsv(reportOf([row({ counters: { b: 1 } }), row({ counters: { a: 0, b: 2 } })]))
    const [header, first, second] = text.split('\r\n').map((line) => line.split(',').slice(13))
    expect(header).toEqual(['counter:a', 'counter:b'])
    expect(first).toEqual(['', '1'])
    expect(second).toEqual(['0', '2'])
  })

  it('enclose fields with commas, quotes and line breaks, and double their quotes (RFC 4180, 2.6 and 2.7)', () => {
    const text = renderCsv(
      reportOf([row({ backend: 'a,b', mode: 'say "hi"', operation: 'two\r\nlines', counters: {} })]),
    )
    expect(text.slice(text.indexOf('\r\n') + 2)).toContain('net,"two\r\nlines","a,b","say ""hi""",split')
  })

  it('of a report without results are a header alone', () => {
    expect(renderCsv(reportOf([])).split('\r\n')).toHaveLength(2)
  })
})
