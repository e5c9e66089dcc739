"""Reports: one page that answers a study's questions, works offline, and says how sure it is."""

from tokensieve.study.report.writing import SAMPLES as SAMPLES
from tokensieve.study.report.writing import WrittenReport as WrittenReport
from tokensieve.study.report.writing import write_report as write_report
