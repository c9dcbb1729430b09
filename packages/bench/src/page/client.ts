import type { BenchReport } from '../contract/result.ts'
import { showReport } from './show.ts'

// What runs in the page: it reads the report that the page carries, and shows it.
const data = document.getElementById('report')
const place = document.getElementById('page')
if (data === null || place === null) throw new Error('the page carries no report')
showReport(place, JSON.parse(data.textContent ?? '') as BenchReport)
