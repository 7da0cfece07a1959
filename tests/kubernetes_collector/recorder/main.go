// Command event-recorder records events as controllers do, with client-go's two recorders:
// core/v1 with counts, and events.k8s.io/v1 with series.
//
//	event-recorder KUBECONFIG COUNT
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
)

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		panic(err)
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "recorded", Namespace: "default", UID: "recorded-uid"},
	}

	older := record.NewBroadcaster()
	older.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	kubelet := older.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: "node-1"})
	for i := 0; i < count; i++ {
		kubelet.Event(pod, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container")
	}

	newer := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := newer.StartRecordingToSinkWithContext(context.Background()); err != nil {
		panic(err)
	}
	scheduler := newer.NewRecorder(scheme.Scheme, "default-scheduler")
	for i := 0; i < count; i++ {
		scheduler.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "0/%d nodes are available", 3)
	}
	time.Sleep(2 * time.Second)
	older.Shutdown()
	newer.Shutdown()
	fmt.Println("recorded")
}
