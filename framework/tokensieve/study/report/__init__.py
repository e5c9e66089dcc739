"""Reports of studies: one page that works offline, with findings, figures, tables and a viewer."""

from tokensieve.study.report.writing import SAMPLES as SAMPLES
from tokensieve.study.report.writing import STEPS as STEPS
from tokensieve.study.report.writing import PaperStyle as PaperStyle
from tokensieve.study.report.writing import WrittenReport as WrittenReport
from tokensieve.study.report.writing import write_report as write_report
