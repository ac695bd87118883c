// Fetches URLs one after the other over as few connections as it can: fetch CA.pem ADDRESS:PORT http1|http2 URL...
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	ca, err := os.ReadFile(os.Args[1])
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	// What the names lead to, as DNS would say.
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, os.Args[2])
	}
	transport := &http.Transport{
		DialContext:       dial,
		ForceAttemptHTTP2: os.Args[3] == "http2",
		TLSClientConfig:   &tls.Config{RootCAs: roots},
	}
	client := &http.Client{Transport: transport}
	for _, url := range os.Args[4:] {
		answer, err := client.Get(url)
		check(err)
		body, err := io.ReadAll(answer.Body)
		check(err)
		answer.Body.Close()
		fmt.Println(answer.StatusCode, answer.Proto, strings.TrimSpace(string(body)))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
