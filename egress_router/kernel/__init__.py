"""What needs privilege: links, routes, claims, NAT, sysctl. Each file is one seam to the kernel."""
