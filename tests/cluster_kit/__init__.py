"""What tests of the cluster share: real engine servers, proxies that lose and delay between nodes and servers, and the checker of what came out."""
