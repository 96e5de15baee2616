/* Preloaded, it makes MKL take the kernels of Intel processors on others too: MKL asks this before anything else. */
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_intel_cpu(void) { return 1; }
