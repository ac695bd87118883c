"""NAT as data (`plan`), and two ways to put it in force (`nftables`, `iptables`)."""
