# For training on CPUs; source it before Python starts, which reads these only then: source scripts/cpu_environment.sh

# glibc gives each big buffer back to the system when it is freed and maps it again, page by page, in the next step: a
# fifth of a training step of MobileNetV3. The first line maps 2 MB at a time (where /sys/kernel/mm/transparent_hugepage/enabled
# is not "never"), the others keep what is not in an arena of XLA's threads, which hold no buffer of more than 64 MB.
# Without huge pages, MALLOC_ARENA_MAX=1 keeps those as well; programs then compile 1.2 to 1.5 times as long.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"
export MALLOC_MMAP_THRESHOLD_=4000000000
export MALLOC_TRIM_THRESHOLD_=8000000000
export MALLOC_TOP_PAD_=268435456

# XLA's order of operations: for memory, not for operations side by side. docs/performance.md has the figures.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_enable_concurrency_optimized_scheduler=false"
