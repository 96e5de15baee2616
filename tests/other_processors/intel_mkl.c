/* Preloaded (LD_PRELOAD), makes MKL use the kernels for Intel processors on any processor: MKL calls these first. */
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_intel_cpu(void) { return 1; }
