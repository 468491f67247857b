// summary: what an export did as the data of a report.
#ifndef SUMMARY_H
#define SUMMARY_H

#include "compress.h"
#include "report.h"

// One entry a layer, in *layers, freed by summary_free. Spectra of weighted methods are borrowed from
// the plan's compression; for plain Tucker the singular values of the modes of a layer's first group
// are computed here.
int summarise(const Plan *p, ReportLayer **layers, Err *e);
void summary_free(ReportLayer *layers, int n);

#endif
