# The workflow itself. This file lets `snakemake` be called from the top of a clone.
include: "workflow/Snakefile"
