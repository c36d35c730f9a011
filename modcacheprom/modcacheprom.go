// Package modcacheprom gives the figures of a [modcache.Cache], its stores and slot
// tables to Prometheus. It is a module of its own so that only those who want it get
// Prometheus' client.
package modcacheprom

import (
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// Options configure a [Collector]. Nil and zero fields mean the defaults.
type Options struct {
	// Labels are put on every series. A program with several Caches gives each Collector
	// another value of one label, such as {"cache": "plugins"}.
	Labels prometheus.Labels

	// Remotes are the stores on servers whose reports are collected too, by the value of
	// the label "remote". The map must not be changed any more.
	Remotes map[string]*remote.Store

	// Slots, if set, yields slot tables' Metrics, each under a value of its own for the label "table". It is called for
	// each scrape, perhaps several times at once. Where tables come and go with tenants, sum
	// them up under a few names, because Prometheus keeps each name that it has seen.
	Slots iter.Seq2[string, modcache.SlotMetrics]
}

// Collector is a [prometheus.Collector] over a Cache: register it, once. Nothing runs between
// scrapes. A scrape looks at no entry; for a store that hangs, it waits for at most five seconds. After
// the Cache's Close, the last figures stay.
//
// README.md beside this file lists the series. Counters begin at zero with the Cache. Series are added in
// later versions; a series that is renamed or dropped is a change that the changelog names.
type Collector struct {
	cache *modcache.Cache
	o     Options

	figures    set[modcache.CacheMetrics]
	status     set[modcache.Status]
	stores     set[storeFigures]
	layers     set[modcache.LayerMetrics]
	promotions set[modcache.LayerPromotions]
	remotes    set[remote.Report]
	slots      set[modcache.SlotMetrics]
	latency    *prometheus.Desc
}

// New returns a Collector over c.
func New(c *modcache.Cache, o *Options) (*Collector, error) {
	if c == nil {
		return nil, errors.New("modcache: a Collector needs a Cache")
	}
	v := &Collector{cache: c}
	if o != nil {
		v.o = *o
	}
	for name, store := range v.o.Remotes {
		if store == nil {
			return nil, fmt.Errorf("modcache: Options.Remotes[%q] is nil", name)
		}
	}
	v.figures = cacheSet(v.o.Labels)
	v.status = statusSet(v.o.Labels)
	v.stores = storeSet(v.o.Labels)
	v.layers = layerSet(v.o.Labels)
	v.promotions = promotionSet(v.o.Labels)
	v.remotes = remoteSet(v.o.Labels)
	v.slots = slotSet(v.o.Labels)
	v.latency = prometheus.NewDesc("modcache_layer_call_seconds", "How long calls of a layer took, by operation.", []string{"layer", "op"}, v.o.Labels)
	return v, nil
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	c.figures.describe(ch)
	c.status.describe(ch)
	c.stores.describe(ch)
	c.layers.describe(ch)
	c.promotions.describe(ch)
	c.remotes.describe(ch)
	c.slots.describe(ch)
	ch <- c.latency
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	var status modcache.Status
	var layers []modcache.LayerMetrics
	layered, _ := c.cache.Store().(*modcache.Layered)
	var asking sync.WaitGroup // each waits for stores that hang
	asking.Go(func() { status = c.cache.Status() })
	asking.Go(func() {
		if layered != nil {
			layers = layered.Layers()
		}
	})
	m := c.cache.Metrics()
	asking.Wait()

	c.figures.collect(ch, m)
	c.status.collect(ch, status)
	if layered == nil {
		c.stores.collect(ch, storeFigures{m.Store, status.MaxBytes}, status.Store)
	} else {
		for _, l := range layers {
			c.stores.collect(ch, storeFigures{l.Store, l.MaxBytes}, l.Name)
			c.layers.collect(ch, l, l.Name)
			ch <- histogram(c.latency, l.Get, l.Name, "get")
			ch <- histogram(c.latency, l.Add, l.Name, "add")
		}
		for _, p := range layered.PromotionReport().Layers {
			c.promotions.collect(ch, p, p.Layer)
		}
	}
	for name, store := range c.o.Remotes {
		c.remotes.collect(ch, store.Report(), name)
	}
	c.collectSlots(ch)
}

// collectSlots calls the program's code: if that panics, the scrape fails and not the program.
func (c *Collector) collectSlots(ch chan<- prometheus.Metric) {
	if c.o.Slots == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			ch <- prometheus.NewInvalidMetric(c.slots.figures[0].desc, fmt.Errorf("Options.Slots panicked: %v", p))
		}
	}()
	for name, m := range c.o.Slots {
		c.slots.collect(ch, m, name)
	}
}
