package modcacheprom_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcacheprom"
)

func Example() {
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(context.Background())

	collector, err := modcacheprom.New(cache, nil)
	if err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	registry.MustRegister(collector)

	families, err := registry.Gather() // what promhttp does for a scrape
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "modcache_compiles_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: modcache_compiles_total 0
}
