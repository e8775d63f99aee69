# Includes the workflow, so that you can call `snakemake` from the top of a clone.
include: "workflow/Snakefile"
