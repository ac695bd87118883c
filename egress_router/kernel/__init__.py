"""What needs privilege: links, routes, claims, NAT, sysctl. Each file is one interface to the kernel."""
