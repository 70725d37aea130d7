"""Many runs of an ablation: jobs, what each is asked, and the engines that do them."""
